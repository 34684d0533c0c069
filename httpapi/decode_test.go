package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/pacelinehq/paceline/fsm"
)

// Whatever bytes are sent, the answer is either the row as strict JSON rules
// would have it, or one complete problem; never a panic, never a half.
func FuzzPutTemplate(f *testing.F) {
	for _, seed := range []string{
		jobTemplate, `{}`, `[]`, `null`, `{"driver":"process","command":"@sample","args":[null,"a"]}`,
		`{"driver":"process","command":"@sample","healthCheck":{"type":"http","interval":"2s"}}`,
		`{"DRIVER":"process","command":"@sample"}`, `{"driver":"process","driver":"process","command":"@sample"}`,
		`{"driver":"pro\u0063ess","command":"@sample"}`, `{"driver":"process","command":"@sample","labels":{"a":"b","a":"c"}}`,
		`{"driver":"process",,"command":"@sample"}`, `{"driver" "process"}`, "{\"driver\":\"process\",\"command\":\"@sample\"}\x00",
		`{"resources":{"cpu":1e400}}`, strings.Repeat(`{"a":`, 50), `"`, `{"`, `{"driver":"\`,
	} {
		f.Add(seed)
	}
	a := newAPI(f)
	f.Fuzz(func(t *testing.T, body string) {
		if body == "" {
			return
		}
		_ = a.do("DELETE", "/v1/templates/fuzz", "")
		w := a.do("PUT", "/v1/templates/fuzz", body)
		if w.Code != http.StatusCreated {
			if w.Code >= 500 {
				t.Fatalf("%d: %s", w.Code, w.Body)
			}
			problem(t, w, w.Code, map[int]fsm.Kind{422: fsm.Invalid, 413: fsm.TooLarge}[w.Code])
			return
		}
		var got, strict fsm.Template
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(strings.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&strict); err != nil {
			t.Fatalf("a body that strict JSON refuses was taken: %v", err)
		}
		if utf8.ValidString(body) && (got.Driver != strict.Driver || got.Command != strict.Command || len(got.Labels) != len(strict.Labels)) {
			t.Fatalf("%q became %s", body, w.Body)
		}
	})
}
