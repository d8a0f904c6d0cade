// Send a large picture and continue a download with net/http: BASE_URL PICTURE JOB_ID RESULT.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	base, picture, job, result := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	body, err := os.Open(picture)
	must(err)
	accepted, err := http.Post(base+"/upscale?model_name=realesrgan-x4plus", "image/bmp", body)
	must(err)
	_, err = io.Copy(os.Stdout, accepted.Body)
	must(err)
	file, err := os.OpenFile(result, os.O_APPEND|os.O_WRONLY, 0)
	must(err)
	facts, err := file.Stat()
	must(err)
	request, err := http.NewRequest("GET", base+"/download/"+job, nil)
	must(err)
	request.Header.Set("Range", fmt.Sprintf("bytes=%d-", facts.Size()))
	rest, err := http.DefaultClient.Do(request)
	must(err)
	if rest.StatusCode != http.StatusPartialContent {
		log.Fatal(rest.Status)
	}
	_, err = io.Copy(file, rest.Body)
	must(err)
	must(file.Close())
}
