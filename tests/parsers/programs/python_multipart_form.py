import hashlib, json
from http.server import BaseHTTPRequestHandler, HTTPServer
from python_multipart import parse_form


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        fields, digests = {}, []

        def on_field(field):
            fields[field.field_name.decode()] = field.value.decode()

        def on_file(file):
            file.file_object.seek(0)
            digests.append(hashlib.sha256(file.file_object.read()).hexdigest())

        headers = {name: self.headers[name].encode() for name in ("Content-Type", "Content-Length")}
        parse_form(headers, self.rfile, on_field, on_file)
        print(json.dumps({"fields": fields, "payload": digests[0]}), flush=True)
        self.send_response(204)
        self.end_headers()


server = HTTPServer(("127.0.0.1", 0), Receiver)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
