// Send a large picture and continue a download with HttpClient: BASE_URL PICTURE JOB_ID RESULT.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

class Large {
    public static void main(String[] args) throws Exception {
        String base = args[0];
        Path result = Path.of(args[3]);
        // By default it asks for HTTP/2, and lighttpd 1.4.79 then breaks answers off.
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var submission =
                HttpRequest.newBuilder(URI.create(base + "/upscale?model_name=realesrgan-x4plus"))
                        .header("Content-Type", "image/bmp")
                        .POST(HttpRequest.BodyPublishers.ofFile(Path.of(args[1])))
                        .build();
        System.out.println(client.send(submission, BodyHandlers.ofString()).body());
        var rest =
                HttpRequest.newBuilder(URI.create(base + "/download/" + args[2]))
                        .header("Range", "bytes=" + Files.size(result) + "-")
                        .build();
        var answer = client.send(rest, BodyHandlers.ofByteArray());
        if (answer.statusCode() != 206) throw new IllegalStateException("" + answer.statusCode());
        Files.write(result, answer.body(), StandardOpenOption.APPEND);
    }
}
