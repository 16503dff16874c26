const { readFileSync } = require("node:fs");
const { formidable } = require("formidable");
const { serve } = require("./report.js");

serve(async (request) => {
  const [lists, files] = await formidable().parse(request);
  const fields = Object.fromEntries(Object.entries(lists).map(([name, [value]]) => [name, value]));
  return { fields, payload: readFileSync(files.payload[0].filepath) };
});
