// Shows the contract; addresses are relative, so a proxy may put the server under any path.
window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: "openapi.yaml",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
  });
});
