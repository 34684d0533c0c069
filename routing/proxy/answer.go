package proxy

import (
	"encoding/json"
	"net/http"
	"time"
)

// answer is an answer of the proxy itself. It is a problem document, as those
// of the API are (RFC 9457).
type answer struct {
	status     int
	code       string
	message    string
	retryAfter time.Duration // 0 for none
	close      bool
}

// problem is the document of an [answer].
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

func (a *answer) body() []byte {
	// A struct of strings and a number always encodes.
	b, _ := json.Marshal(problem{http.StatusText(a.status), a.status, a.message, a.code})
	return append(b, '\n')
}

// retryAfterSeconds is the whole number of seconds for a Retry-After field.
func (a *answer) retryAfterSeconds() int64 {
	return int64((a.retryAfter + time.Second - 1) / time.Second)
}
