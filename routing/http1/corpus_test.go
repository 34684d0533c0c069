package http1_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/pacelinehq/paceline/routing/http1"
)

// TestCorpus holds the package to testdata/corpus. A case is a message with its
// escapes as Go writes them; line breaks of the file do not count, and what is
// in {{}} stands there many times. What comes of it must not depend on how it
// arrives.
func TestCorpus(t *testing.T) {
	datadriven.Walk(t, "testdata/corpus", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			in := unescape(t, d)
			got := corpusCase(t, d, in, false)
			if single := corpusCase(t, d, in, true); single != got {
				d.Fatalf(t, "byte by byte it becomes\n%s\nand in one piece\n%s", single, got)
			}
			return got
		})
	})
}

func unescape(t *testing.T, d *datadriven.TestData) string {
	in, err := strconv.Unquote(`"` + strings.ReplaceAll(strings.ReplaceAll(d.Input, "\n", ""), `"`, `\"`) + `"`)
	if err != nil {
		d.Fatalf(t, "%q: %v", d.Input, err)
	}
	if d.HasArg("repeat") {
		var times int
		d.ScanArgs(t, "repeat", &times)
		before, in, _ := strings.Cut(in, "{{")
		what, after, _ := strings.Cut(in, "}}")
		return before + strings.Repeat(what, times) + after
	}
	return in
}

func corpusCase(t *testing.T, d *datadriven.TestData, in string, single bool) string {
	r := reading(in, single, http1.Limits{})
	switch d.Cmd {
	case "request":
		var q http1.Request
		got := oneRequest(r, &q)
		if n, err := http1.ParseRequest([]byte(in), new(http1.Request)); err == nil {
			if diff := againstNetHTTP([]byte(in), n, &q); diff != "" && !strings.HasPrefix(in, "\r\n") {
				d.Fatalf(t, "net/http differs: %s", diff)
			}
		}
		return got
	case "response":
		method := "GET"
		if d.HasArg("to") {
			d.ScanArgs(t, "to", &method)
		}
		return oneResponse(r, method, new(http1.Response))
	case "chunked":
		body, err := copied(r, http1.BodyChunked, 0, http1.CopyOptions{})
		if err != nil {
			// How much went before depends on how it arrived.
			return err.Error() + "\n"
		}
		return fmt.Sprintf("%q, then %d bytes\n", body, len(rest(r)))
	}
	d.Fatalf(t, "no such command")
	return ""
}

// rest is everything behind the message that was read.
func rest(r *http1.Reader) string {
	s, err := copied(r, http1.BodyUntilClose, 0, http1.CopyOptions{})
	if err != nil {
		panic(err)
	}
	return s
}
