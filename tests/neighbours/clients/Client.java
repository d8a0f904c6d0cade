// Upscale a picture with Java's HttpClient: BASE_URL PICTURE RESULT.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.util.regex.Pattern;

class Client {
    public static void main(String[] args) throws Exception {
        String base = args[0];
        // By default it asks for HTTP/2, and lighttpd 1.4.79 then breaks answers off.
        HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var submission =
                HttpRequest.newBuilder(URI.create(base + "/upscale?scale=2&model_name=realesr-animevideov3"))
                        .header("Content-Type", "image/png")
                        .POST(HttpRequest.BodyPublishers.ofFile(Path.of(args[1])))
                        .build();
        String accepted = client.send(submission, BodyHandlers.ofString()).body();
        var found = Pattern.compile("[0-9]{19}").matcher(accepted);
        if (!found.find()) throw new IllegalStateException(accepted);
        String job = found.group();
        var wait = HttpRequest.newBuilder(URI.create(base + "/status/" + job + "?wait=45")).build();
        String status = client.send(wait, BodyHandlers.ofString()).body();
        if (!status.contains("\"completed\"")) throw new IllegalStateException(status);
        var download = HttpRequest.newBuilder(URI.create(base + "/download/" + job)).build();
        if (client.send(download, BodyHandlers.ofFile(Path.of(args[2]))).statusCode() != 200)
            throw new IllegalStateException(job);
    }
}
