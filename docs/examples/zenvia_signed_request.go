// A request with a signature token: TOKEN=... TOKEN_SECRET=... go run zenvia_signed_request.go METHOD URL [JSON]
package main

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"time"
)

// sign adds what a signature token needs to a request whose body is this text.
func sign(request *http.Request, body, token, secret string) {
	date, hash := time.Now().UTC().Format(http.TimeFormat), ""
	if body != "" {
		sum := md5.Sum([]byte(body))
		hash = hex.EncodeToString(sum[:])
		request.Header.Set("Content-Type", "application/json")
	}
	lines := []string{request.Method, hash, request.Header.Get("Content-Type"), date, request.URL.Hostname(), request.URL.RequestURI()}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.Join(lines, "\n")))
	request.Header.Set("X-API-Token", token)
	request.Header.Set("X-API-Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	request.Header.Set("Date", date)
}

func main() {
	body := strings.Join(os.Args[3:], "")
	request, err := http.NewRequest(os.Args[1], os.Args[2], strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	sign(request, body, os.Getenv("TOKEN"), os.Getenv("TOKEN_SECRET"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	text, _ := io.ReadAll(answer.Body)
	fmt.Println(answer.StatusCode, string(text))
	if answer.StatusCode >= 300 {
		os.Exit(1)
	}
}
