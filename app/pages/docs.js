// Swagger UI on our own document; nothing that it is told here makes it ask another host.

// The options of a raw body are query parameters (`x-body: raw`): shown while one is chosen.
const optionsOfRawBodies = ({ React, oas3Selectors }) => ({
  wrapComponents: {
    parameterRow: (Row) => (props) => {
      const chosen = oas3Selectors.requestContentType(...props.pathMethod);
      const isRaw = chosen && !["application/json", "multipart/form-data"].includes(chosen);
      const hidden = props.rawParam.get("x-body") === "raw" && !isRaw;
      return hidden ? null : React.createElement(Row, props);
    },
  },
});

// A form starts empty, and sends what was filled in: not a made-up value for every field.
const formsAsFilledIn = ({ React, Im }) => ({
  wrapComponents: {
    RequestBody: (Body) => (props) => {
      const isForm = (props.contentType || "").startsWith("multipart/");
      const fn = isForm ? { ...props.fn, getSampleSchema: startOf } : props.fn;
      return React.createElement(Body, { ...props, fn });
    },
    ParameterIncludeEmpty: () => () => null,
  },
  statePlugins: {
    oas3: { wrapSelectors: { requestBodyInclusionSetting: () => () => Im.Map() } },
  },
});

function startOf(schema) {
  if (schema.get("type") !== "array") {
    return schema.get("x-prefill", "");
  }
  return schema.getIn(["items", "format"]) === "binary" ? [""] : [];
}

// JSON in a field is typed. Swagger UI asks for a file wherever OpenAPI 3.1 names a media type.
const typedJson = ({ fn }) => ({
  fn: { isFileUploadIntended: (...asked) => fn.isFileUploadIntendedOAS30(...asked) },
});

// Commands in the text ask the service that shows them.
const addressesOfThisService = () => ({
  statePlugins: {
    spec: {
      wrapActions: {
        updateSpec: (update) => (text) =>
          update(text.replace(/\w+:\/\/127\.0\.0\.1:8000\//g, new URL(".", location.href).href)),
      },
    },
  },
});

// Every answer has headers; whoever wants to read about them unfolds them.
const foldedHeaders = ({ React }) => ({
  wrapComponents: {
    headers: (Headers) => (props) =>
      props.headers && props.headers.size
        ? React.createElement(
            "details",
            { className: "folded" },
            React.createElement("summary", null, "Headers"),
            React.createElement(Headers, props),
          )
        : null,
  },
});

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#documentation",
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [
    optionsOfRawBodies, formsAsFilledIn, typedJson, addressesOfThisService, foldedHeaders,
  ],
  layout: "BaseLayout",
  validatorUrl: "none", // its default sends the document to validator.swagger.io
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  filter: true,
  defaultModelRendering: "example",
  defaultModelsExpandDepth: 0, // closed: the operations come first
  defaultModelExpandDepth: 2,
});
