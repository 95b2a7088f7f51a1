SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: document.currentScript.dataset.openapi,
  deepLinking: true,
  validatorUrl: null  // Do not send the document to the public validator.
});
