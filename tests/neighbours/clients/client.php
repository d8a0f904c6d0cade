<?php
// Upscale a picture with PHP's own streams: BASE_URL PICTURE RESULT.
[, $base, $picture, $result] = $argv;
$boundary = bin2hex(random_bytes(16));
$body = '';
foreach (['model_name' => 'realesr-animevideov3', 'scale' => '2', 'tta' => ''] as $name => $value) {
    $body .= "--$boundary\r\nContent-Disposition: form-data; name=\"$name\"\r\n\r\n$value\r\n";
}
$body .= "--$boundary\r\nContent-Disposition: form-data; name=\"image\"; filename=\"photo.png\"\r\n"
    . "Content-Type: image/png\r\n\r\n" . file_get_contents($picture) . "\r\n--$boundary--\r\n";
$post = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => "Content-Type: multipart/form-data; boundary=$boundary",
    'content' => $body,
]]);
$accepted = json_decode(file_get_contents("$base/upscale", false, $post), true);
$status = json_decode(file_get_contents("$base/status/{$accepted['job_id']}?wait=45"), true);
if ($status['status'] !== 'completed') {
    fwrite(STDERR, json_encode($status));
    exit(1);
}
exit(file_put_contents($result, file_get_contents("$base/download/{$accepted['job_id']}")) ? 0 : 1);
