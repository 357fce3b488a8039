// A receiver of Standard Webhooks: WEBHOOK_SECRET=whsec_... PORT=9000 go run standard_receiver.go
package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const limit = 8 << 20

var (
	secret, _ = base64.StdEncoding.DecodeString(strings.TrimPrefix(os.Getenv("WEBHOOK_SECRET"), "whsec_"))
	seen      sync.Map // keys of what was worked on; a database bounds them, and knows them after a restart
)

// verify returns the id of a genuine request.
func verify(headers http.Header, body []byte, now time.Time) (string, error) {
	key, t := headers.Get("webhook-id"), headers.Get("webhook-timestamp")
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.%s", key, t, body)
	expected := []byte("v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	fits := false
	for _, one := range strings.Fields(headers.Get("webhook-signature")) { // one for each secret that is live
		fits = fits || hmac.Equal(expected, []byte(one))
	}
	if !fits {
		return "", errors.New("the signature does not fit")
	}
	seconds, err := strconv.ParseInt(t, 10, 64)
	if age := now.Unix() - seconds; err != nil || age > 300 || age < -300 {
		return "", errors.New("too old, or of the future")
	}
	return key, nil
}

func receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
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
