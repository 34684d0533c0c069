package fsm

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a [time.Duration] that is a Go duration string ("30s") in JSON.
type Duration time.Duration

// Std returns d as a [time.Duration].
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String renders d as Go does: "1m30s".
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalJSON writes the Go duration string.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(d.String())
}

// UnmarshalJSON reads a Go duration string and refuses bare numbers, whose
// unit nobody can tell.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" { // by convention a no-op
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("a duration is a string such as \"30s\", not %s", b)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("a duration is a string such as \"30s\", \"5m\" or \"1h30m\", not %q", s)
	}
	*d = Duration(v)
	return nil
}

// or returns d, or def when d is zero.
func (d Duration) or(def time.Duration) Duration {
	if d == 0 {
		return Duration(def)
	}
	return d
}
