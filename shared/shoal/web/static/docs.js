"use strict";

// The page is served at /docs, or wherever a proxy puts it: all addresses are relative to that.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null, // it would send the description to a public server
});
