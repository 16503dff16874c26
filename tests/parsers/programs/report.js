// Serves on a free port and prints what a parser makes of each request, as one line of JSON.
const { createHash } = require("node:crypto");
const { createServer } = require("node:http");

exports.serve = (parse) => {
  const server = createServer((request, response) => {
    parse(request, response).then(
      ({ fields, payload }) => {
        const digest = createHash("sha256").update(payload).digest("hex");
        console.log(JSON.stringify({ fields, payload: digest }));
        response.writeHead(204).end();
      },
      (error) => {
        console.error(error);
        response.writeHead(500).end();
      },
    );
  });
  server.listen(0, "127.0.0.1", () => console.log("listening on port", server.address().port));
};
