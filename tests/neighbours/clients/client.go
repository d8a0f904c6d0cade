// Upscale a picture with Go's standard library: BASE_URL PICTURE RESULT.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"mime/multipart"
	"net/http"
	"os"
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func answer(response *http.Response, err error) []byte {
	must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(err)
	if response.StatusCode >= 300 {
		log.Fatal(string(body))
	}
	return body
}

func main() {
	base, picture, result := os.Args[1], os.Args[2], os.Args[3]
	content, err := os.ReadFile(picture)
	must(err)
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	must(form.WriteField("model_name", "realesr-animevideov3"))
	must(form.WriteField("scale", "2"))
	part, err := form.CreateFormFile("image", "photo.png")
	must(err)
	_, err = part.Write(content)
	must(err)
	must(form.Close())
	var job struct {
		ID     string `json:"job_id"`
		Status string
	}
	must(json.Unmarshal(answer(http.Post(base+"/upscale", form.FormDataContentType(), &body)), &job))
	must(json.Unmarshal(answer(http.Get(base+"/status/"+job.ID+"?wait=45")), &job))
	if job.Status != "completed" {
		log.Fatal(job)
	}
	must(os.WriteFile(result, answer(http.Get(base+"/download/"+job.ID)), 0o600))
}
