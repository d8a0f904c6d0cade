// Only browsers without JavaScript modules run this.
document.getElementById("old") || document.addEventListener("DOMContentLoaded", show);
function show() { document.getElementById("old").hidden = false; }
if (document.getElementById("old")) show();
