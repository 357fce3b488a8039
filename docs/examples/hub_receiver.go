// A receiver of the Hub's webhooks: WEBHOOK_SECRET=... PORT=9000 go run hub_receiver.go
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"
)

const limit = 8 << 20

var (
	secret = []byte(os.Getenv("WEBHOOK_SECRET")) // the 64 characters as text, not decoded
	parts  = regexp.MustCompile(`^t=(\d+),v1=([0-9a-f]{64})\n(.*):(\d+):(\d+)$`)
	seen   sync.Map // keys of what was worked on; a database bounds them, and knows them after a restart
)

// verify returns the idempotency key of a genuine request.
func verify(headers http.Header, body []byte, now time.Time) (string, error) {
	key := headers.Get("x-idempotency-key")
	part := parts.FindStringSubmatch(headers.Get("x-webhook-signature") + "\n" + key)
	if part == nil {
		return "", errors.New("unsigned")
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n%s", part[1], part[3], part[4], part[5], body)
	if v1, _ := hex.DecodeString(part[2]); !hmac.Equal(v1, mac.Sum(nil)) {
		return "", errors.New("the signature does not fit")
	}
	t, err := strconv.ParseInt(part[1], 10, 64)
	if age := now.Unix() - t; err != nil || age > 300 || age < -300 {
		return "", errors.New("too old, or of the future")
	}
	return key, nil
}

func receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err == nil && r.Header.Get("content-encoding") == "gzip" { // what is signed is the body before compression
		var plain io.Reader
		if plain, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
			body, err = io.ReadAll(io.LimitReader(plain, limit))
		}
	}
	var key string
	if err == nil {
		key, err = verify(r.Header, body, time.Now())
	}
	if err != nil {
		fmt.Println("refused:", err)
		w.WriteHeader(http.StatusUnauthorized)
	} else if _, before := seen.LoadOrStore(key, true); before {
		fmt.Println("seen before:", key)
	} else {
		fmt.Printf("accepted: %s %.60s\n", key, body) // the work: quickly, or in a queue of your own
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on port", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, http.HandlerFunc(receive)))
}
