import hashlib, json
from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)


@app.post("/")
def receive():
    payload = request.files["payload"].read()
    digest = hashlib.sha256(payload).hexdigest()
    print(json.dumps({"fields": request.form.to_dict(), "payload": digest}), flush=True)
    return "", 204


server = make_server("127.0.0.1", 0, app)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
