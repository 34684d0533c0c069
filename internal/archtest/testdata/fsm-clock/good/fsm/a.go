package fsm

import "time"

type meta struct{ Time time.Time }

func (m meta) age(t time.Time) time.Duration { return m.Time.Sub(t) }

func (m meta) Now() time.Time { return m.Time }

func use(m meta) bool { return m.Now().After(time.Unix(0, 0)) }
