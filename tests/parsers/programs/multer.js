const multer = require("multer");
const { serve } = require("./report.js");

const upload = multer().single("payload");

serve(
  (request, response) =>
    new Promise((resolve, reject) =>
      upload(request, response, (error) =>
        error ? reject(error) : resolve({ fields: { ...request.body }, payload: request.file.buffer }),
      ),
    ),
);
