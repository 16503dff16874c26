package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
)

func receive(response http.ResponseWriter, request *http.Request) {
	if err := request.ParseMultipartForm(32 << 20); err != nil {
		log.Fatal(err)
	}
	file, _, err := request.FormFile("payload")
	if err != nil {
		log.Fatal(err)
	}
	payload, err := io.ReadAll(file)
	if err != nil {
		log.Fatal(err)
	}
	fields := map[string]string{}
	for name, values := range request.MultipartForm.Value {
		fields[name] = values[0]
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(payload))
	line, err := json.Marshal(map[string]any{"fields": fields, "payload": digest})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
	response.WriteHeader(http.StatusNoContent)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on port", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(receive)))
}
