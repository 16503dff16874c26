const busboy = require("busboy");
const { serve } = require("./report.js");

serve(
  (request) =>
    new Promise((resolve, reject) => {
      const fields = {};
      const chunks = [];
      const parser = busboy({ headers: request.headers })
        .on("field", (name, value) => (fields[name] = value))
        .on("file", (_name, stream) => stream.on("data", (chunk) => chunks.push(chunk)))
        .on("close", () => resolve({ fields, payload: Buffer.concat(chunks) }))
        .on("error", reject);
      request.pipe(parser);
    }),
);
