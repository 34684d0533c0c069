package fsm_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/pacelinehq/paceline/fsm"
)

// start is the log time of every script; each entry is one second later.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// script is a machine driven by the verbs of testdata/*.txt, whose output is
// the assertion. `go test ./fsm -rewrite` records it anew.
type script struct {
	m     *fsm.Machine
	index uint64
	term  uint64
}

func TestScripts(t *testing.T) {
	defer fsm.PlantCommands()()
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := &script{m: fsm.NewMachine(), term: 1}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	switch d.Cmd {
	case "term":
		s.term++
		return fmt.Sprintf("term %d\n", s.term)
	case "apply":
		return s.apply(t, d)
	case "wait":
		var secs uint64
		d.ScanArgs(t, "entries", &secs)
		s.index += secs
		return ""
	case "table":
		return s.table(t, d)
	case "snapshot":
		return s.snapshot(t)
	}
	t.Fatalf("unknown verb %s", d.Cmd)
	return ""
}

// apply puts the commands, one a line as `Name {json}`, into one entry.
func (s *script) apply(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var batch fsm.BatchID
	if d.HasArg("batch") {
		d.ScanArgs(t, "batch", &batch.Node, &batch.Boot, &batch.Seq)
	}
	var id string
	d.MaybeScanArgs(t, "request", &id)
	var list []fsm.Envelope
	for line := range strings.Lines(d.Input) {
		name, body, _ := strings.Cut(strings.TrimSpace(line), " ")
		body = sessionNames.ReplaceAllStringFunc(body, sessionKeys)
		list = append(list, fsm.Envelope{
			Name: name, Body: []byte(body), Actor: "script", RequestID: id, Ignorable: d.HasArg("ignorable"),
		})
	}
	s.index++
	e := fsm.Entry{Time: start.Add(time.Duration(s.index) * time.Second), Batch: batch, Commands: list}
	out, err := s.m.Apply([]fsm.LogEntry{{Index: s.index, Term: s.term, Data: e.Encode()}})
	if err != nil {
		s.index--
		return fmt.Sprintf("stopped: %v\n", err)
	}
	if !s.m.State().VerifyDigest() {
		t.Fatalf("the rolling digest differs from the rows")
	}
	return render(t, out[0], d.HasArg("values"))
}

// sessionNames matches @(alice bob): the keys of sessions, by name.
var sessionNames = regexp.MustCompile(`@\([^)]*\)`)

func sessionKeys(names string) string {
	var raw []byte
	for _, name := range strings.Fields(names[2 : len(names)-1]) {
		k := fsm.SessionKey(name)
		raw = append(raw, k[:]...)
	}
	return strconv.Quote(base64.StdEncoding.EncodeToString(raw))
}

func render(t *testing.T, o fsm.Outcome, values bool) string {
	t.Helper()
	if o.Duplicate {
		return "duplicate\n"
	}
	var b strings.Builder
	for k := range o.Results {
		switch {
		case o.Errs[k] != nil:
			fmt.Fprintf(&b, "error %s: %v\n", fsm.KindOf(o.Errs[k]), o.Errs[k])
		case o.Results[k].Replayed:
			b.WriteString("ok, replayed\n")
		case values:
			raw, err := json.Marshal(o.Results[k].Value)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s\n", bytes.ReplaceAll(raw, []byte("},{"), []byte("},\n {")))
		default:
			b.WriteString("ok\n")
		}
	}
	for _, c := range o.Changes {
		switch {
		case c.Table == "activities" || c.Table == "origins" || strings.HasPrefix(c.Table, "request"):
		case c.Removed():
			fmt.Fprintf(&b, "- %s %s\n", c.Table, c.Key)
		default:
			fmt.Fprintf(&b, "+ %s %s\n", c.Table, c.Key)
		}
	}
	return b.String()
}

// table prints the rows of one table as JSON.
func (s *script) table(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	st := s.m.State()
	var b strings.Builder
	switch name := d.CmdArgs[0].Key; name {
	case "nodes":
		dump(t, &b, &st.Nodes)
	case "templates":
		dump(t, &b, &st.Templates)
	case "templateVersions":
		dump(t, &b, &st.TemplateVersions)
	case "groups":
		dump(t, &b, &st.Groups)
	case "instances":
		dump(t, &b, &st.Instances)
	case "policies":
		dump(t, &b, &st.Policies)
	case "windows":
		dump(t, &b, &st.Windows)
	case "decisions":
		dump(t, &b, &st.Decisions)
	case "activities":
		dump(t, &b, &st.Activities)
	case "quarantine":
		dump(t, &b, &st.Quarantine)
	case "removedNodes":
		dump(t, &b, &st.RemovedNodes)
	case "clusters":
		dump(t, &b, &st.Clusters)
	case "slotNumbers":
		dump(t, &b, &st.SlotNumbers)
	case "sessionData":
		dump(t, &b, &st.SessionData)
	case "sessionDataEnds":
		dump(t, &b, &st.SessionDataEnds)
	case "sessionUsages":
		dump(t, &b, &st.SessionUsages)
	case "sessionKeys":
		for _, k := range st.CookieKeys() {
			fmt.Fprintf(&b, "%d made at %s: %q\n", k.ID, k.CreatedAt.Format(time.TimeOnly), k.Secret[:])
		}
	case "sessions":
		var group string
		d.ScanArgs(t, "group", &group)
		dumpSessions(t, &b, st, group)
	default:
		t.Fatalf("unknown table %s", name)
	}
	return b.String()
}

func dumpSessions(t *testing.T, b *strings.Builder, s *fsm.State, group string) {
	t.Helper()
	stats, err := json.Marshal(s.SessionStats(group))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(b, "%s\n", stats)
	for k, v := range s.SessionsFrom(group, [16]byte{}) {
		fmt.Fprintf(b, "%x… slot %d, instance %s/%d, epoch %d, seen %s, lives %v\n",
			k[:4], v.Slot, v.Instance, v.Incarnation, v.Epoch, v.Seen.Format(time.TimeOnly), v.Lives)
	}
}

func dump[T any](t *testing.T, b *strings.Builder, table *fsm.Table[T]) {
	t.Helper()
	for _, row := range table.All() {
		raw, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(raw)
		b.WriteByte('\n')
	}
}

// snapshot saves and restores, and goes on with the restored state.
func (s *script) snapshot(t *testing.T) string {
	t.Helper()
	before := s.m.State()
	var b bytes.Buffer
	if err := before.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	after, err := fsm.ReadSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	if after.Digest() != before.Digest() || after.Index() != before.Index() || !after.VerifyDigest() {
		t.Fatal("the restored state differs")
	}
	s.m.Replace(after)
	return fmt.Sprintf("index %d\n", after.Index())
}
