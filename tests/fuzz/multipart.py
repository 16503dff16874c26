"""Parses multipart bodies, compares the fields with the expected ones, and prints their number."""

import base64
import email.parser
import email.policy
import json
import sys

n = 0
for line in open(sys.argv[1], encoding="ascii"):
    one = json.loads(line)
    head = b"Content-Type: " + one["type"].encode() + b"\r\n\r\n"
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        head + base64.b64decode(one["body"])
    )
    assert message.is_multipart() and not message.defects, (one, message.defects)
    found = [
        (part.get_param("name", header="content-disposition"), part.get_payload(decode=True))
        for part in message.iter_parts()
    ]
    expected = [(name, base64.b64decode(value)) for name, value in one["fields"]]
    assert found == expected, (found, expected)
    payload = list(message.iter_parts())[-1]
    assert payload.get_filename() == "project.xml", payload.get_filename()
    assert payload.get_content_type() == "application/xml", payload.get_content_type()
    n += 1
print(n)
