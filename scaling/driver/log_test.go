package driver_test

import (
	"testing"

	"github.com/pacelinehq/paceline/scaling/driver"
)

func TestLastLines(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"", 1, ""},
		{"a\nb\nc\n", 1, "c\n"},
		{"a\nb\nc", 1, "c"},
		{"a\nb\nc\n", 2, "b\nc\n"},
		{"a\nb\nc\n", 9, "a\nb\nc\n"},
		{"a\nb\nc\n", 0, "a\nb\nc\n"},
		{"\n\n", 1, "\n"},
	} {
		if got := string(driver.LastLines([]byte(c.text), c.n)); got != c.want {
			t.Errorf("last %d of %q: got %q, want %q", c.n, c.text, got, c.want)
		}
	}
}

func TestCut(t *testing.T) {
	log := []byte("one\ntwo\nthree\n")
	for _, c := range []struct {
		q    driver.LogQuery
		want string
		next int64
	}{
		{driver.LogQuery{}, "one\ntwo\nthree\n", 14},
		{driver.LogQuery{Offset: 4, Limit: 3}, "two", 7},
		{driver.LogQuery{Offset: 99}, "", 14},
		{driver.LogQuery{Offset: -1, TailLines: 2}, "two\nthree\n", 14},
		{driver.LogQuery{Offset: -1, Limit: 6}, "three\n", 14},
	} {
		got := driver.Cut(log, c.q)
		if string(got.Data) != c.want || got.Next != c.next || got.Offset != got.Next-int64(len(got.Data)) {
			t.Errorf("%+v: got %q at %d, next %d", c.q, got.Data, got.Offset, got.Next)
		}
	}
	if q := (driver.LogQuery{Limit: 1 << 30}); q.Bound() != driver.MaxLogChunk {
		t.Errorf("a limit of 1 GiB becomes %d", q.Bound())
	}
}
