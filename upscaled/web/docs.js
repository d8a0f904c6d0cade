// Shows the contract; addresses are relative, so a proxy may put the server under any path.

// "Try it out" fills every form field with a sample and sends them all, among them fields that
// exclude each other. Here optional fields start empty, and empty fields are not sent.
const emptyFields = () => {
  let sample;
  return {
    afterLoad(system) {
      sample ??= system.fn.getSampleSchema;
      // Form fields are asked for without a media type; bodies and answers keep their samples.
      system.fn.getSampleSchema = (schema, mediaType, ...rest) =>
        mediaType === false ? "" : sample(schema, mediaType, ...rest);
    },
    wrapComponents: {
      ParameterIncludeEmpty: (Original, system) => (props) =>
        system.React.createElement(Original, {
          ...props,
          isIncludedOptions: { shouldDispatchInit: false, defaultValue: false },
        }),
    },
  };
};

window.addEventListener("load", () => {
  window.ui = SwaggerUIBundle({
    url: "openapi.yaml",
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
    plugins: [emptyFields],
  });
});
