<?php
// Send a large picture and continue a download with PHP's own streams: BASE_URL PICTURE JOB_ID RESULT.
[, $base, $picture, $job, $result] = $argv;
$post = stream_context_create(['http' => [
    'method' => 'POST',
    'header' => 'Content-Type: image/bmp',
    'content' => file_get_contents($picture),
]]);
$accepted = file_get_contents("$base/upscale?model_name=realesrgan-x4plus", false, $post);
if ($accepted === false) {
    exit(1);
}
echo $accepted;
$rest = stream_context_create(['http' => ['header' => 'Range: bytes=' . filesize($result) . '-']]);
$content = file_get_contents("$base/download/$job", false, $rest);
if (!str_contains($http_response_header[0], ' 206 ')) {
    exit(1);
}
file_put_contents($result, $content, FILE_APPEND);
