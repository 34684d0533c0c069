package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	cases := []struct {
		name   string
		events string
		ok     bool
		want   []string
	}{
		{"pass", `{"Action":"pass","Package":"m/a","Test":"TestA","Elapsed":0.1}
{"Action":"pass","Package":"m/a","Elapsed":0.2}`, true,
			[]string{"pass m/a (0.2s)", "tests: 1 passed, 0 failed, 0 skipped"}},
		{"nothing", ``, false, []string{"no test has run"}},
		{"fail shows its output", `{"Action":"output","Package":"m/a","Test":"TestA","Output":"a_test.go:3: broken\n"}
{"Action":"fail","Package":"m/a","Test":"TestA"}
{"Action":"fail","Package":"m/a"}`, false,
			[]string{"a_test.go:3: broken", "FAILED  m/a TestA", "1 failed"}},
		{"failure outside of tests", `{"Action":"pass","Package":"m/a","Test":"TestA"}
{"Action":"output","Package":"m/a","Output":"found unexpected goroutines\n"}
{"Action":"fail","Package":"m/a"}`, false,
			[]string{"found unexpected goroutines", "FAILED  m/a\n"}},
		{"panic belongs to a test that did not end", `{"Action":"output","Package":"m/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output","Package":"m/a","Test":"TestB","Output":"panic: out of cheese\n"}
{"Action":"fail","Package":"m/a"}`, false,
			[]string{"panic: out of cheese", "FAILED  m/a TestB (did not end)\n", "1 failed"}},
		{"broken build", `{"ImportPath":"m/a","Action":"build-output","Output":"a.go:1:1: syntax error\n"}
{"ImportPath":"m/a","Action":"build-fail"}
{"Action":"fail","Package":"m/a","FailedBuild":"m/a"}`, false,
			[]string{"syntax error", "FAILED  m/a"}},
		{"skip gives its reason", `{"Action":"pass","Package":"m/e2e","Test":"TestB"}
{"Action":"output","Package":"m/e2e","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"m/e2e","Test":"TestA","Output":"    e2e_test.go:12: no Docker engine answers\n"}
{"Action":"output","Package":"m/e2e","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"m/e2e","Test":"TestA"}`, true,
			[]string{"SKIPPED 1 because: no Docker engine answers", "e2e.TestA", "1 skipped"}},
		{"text between events", "go: warning\n" + `{"Action":"pass","Package":"m/a","Test":"TestA"}`, true,
			[]string{"go: warning"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			sum, err := Read(strings.NewReader(c.events), &out)
			if err != nil {
				t.Fatal(err)
			}
			sum.Print(&out, 5)
			if sum.OK() != c.ok {
				t.Errorf("OK() = %v, want %v", sum.OK(), c.ok)
			}
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("output lacks %q:\n%s", w, out.String())
				}
			}
		})
	}
}
