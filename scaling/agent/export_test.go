package agent

import (
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Damper is the pure machine that damps flapping.
type Damper struct{ d damper }

// NewDamper makes the damper of an instance that is checked each interval.
func NewDamper(before fsm.Health, held bool, interval time.Duration) *Damper {
	return &Damper{newDamper(before, held, interval)}
}

// See is damper.see; it also says what others see, and the hold at present.
func (d *Damper) See(now time.Time, raw fsm.Health) (changed bool, shown fsm.Health, held time.Duration) {
	changed = d.d.see(now, raw)
	if d.d.held {
		held = d.d.hold
	}
	return changed, d.d.shown, held
}
