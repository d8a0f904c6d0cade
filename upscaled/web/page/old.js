// Only browsers without JavaScript modules run this.
function show() {
  var notice = document.getElementById("old");
  if (notice) notice.hidden = false;
}
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", show);
else show();
