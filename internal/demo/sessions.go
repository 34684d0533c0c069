package demo

import (
	"errors"

	"github.com/pacelinehq/paceline/client"
)

// sessionsBut returns where the sessions live that are not on a node, by load
// and user.
func (s *story) sessionsBut(st *client.GroupStatus, node string) [][]string {
	doomed := map[string]bool{"": true} // a user that has not been answered yet has no session
	for _, i := range st.Instances {
		if i.Node == node {
			doomed[i.ID] = true
		}
	}
	var all [][]string
	for _, l := range s.loads {
		list := l.places()
		for k, instance := range list {
			if doomed[instance] {
				list[k] = ""
			}
		}
		all = append(all, list)
	}
	return all
}

// checkSessions compares where the sessions live with where they did before.
func (s *story) checkSessions(before [][]string) error {
	kept, total := 0, 0
	for k, l := range s.loads {
		for user, now := range l.places() {
			if was := before[k][user]; was != "" {
				total++
				if now == was {
					kept++
				}
			}
		}
	}
	s.say("%d of %d sessions on the other nodes are where they were", kept, total)
	s.fact("sessions kept              %d of %d whose instance lived", kept, total)
	if kept < total {
		return errors.New("sessions of living instances have moved")
	}
	return nil
}
