package httpapi

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
)

// Access is what a caller must be to use a route.
type Access string

// The levels of access, each with all that the ones before it may do.
const (
	// Public needs no token: probes and the description of the API.
	Public Access = "public"
	// Viewer may read.
	Viewer Access = "viewer"
	// Operator may change what runs.
	Operator Access = "operator"
	// Admin may change the cluster itself and take its whole state away.
	Admin Access = "admin"
)

// rank orders the levels; 0 is not a level.
func (a Access) rank() int {
	switch a {
	case Public:
		return 1
	case Viewer:
		return 2
	case Operator:
		return 3
	case Admin:
		return 4
	}
	return 0
}

// allows reports whether a caller of level a may use a route of level need. A
// route without a level is open to nobody.
func (a Access) allows(need Access) bool { return need.rank() > 0 && a.rank() >= need.rank() }

// tokenSet holds the hashes of the tokens, so that the comparison takes the
// same time whatever was sent.
type tokenSet struct{ list []tokenHash }

type tokenHash struct {
	hash [sha256.Size]byte
	role Access
}

// Reload reads the token file again. On an error the tokens in force stay.
func (s *Server) Reload() error {
	if s.cfg.TokenFile == "" {
		s.tokens.Store(nil)
		return nil
	}
	f, err := os.Open(s.cfg.TokenFile)
	if err != nil {
		return fsm.Errorf(fsm.Invalid, "token file", s.cfg.TokenFile, "can not be read: %v", err)
	}
	defer func() { _ = f.Close() }()
	set, err := readTokens(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return fsm.Errorf(fsm.Invalid, "token file", s.cfg.TokenFile, "%v", err).
			WithHint("each line is role:token, with a role of viewer, operator or admin; every role needs one")
	}
	s.tokens.Store(set)
	return nil
}

func readTokens(r io.Reader) (*tokenSet, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	set, have := &tokenSet{}, map[Access]bool{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, token, ok := strings.Cut(line, ":")
		role, token := Access(strings.TrimSpace(name)), strings.TrimSpace(token)
		if !ok || role.rank() < Viewer.rank() || len(token) < minToken {
			return nil, fsm.Errorf(fsm.Invalid, "", "", "line %d is not role:token with a token of at least %d characters", n, minToken)
		}
		set.list = append(set.list, tokenHash{sha256.Sum256([]byte(token)), role})
		have[role] = true
	}
	for _, role := range []Access{Viewer, Operator, Admin} {
		if !have[role] {
			return nil, fsm.Errorf(fsm.Invalid, "", "", "has no token for role %s", role)
		}
	}
	if len(set.list) > maxTokens {
		return nil, fsm.Errorf(fsm.Invalid, "", "", "has %d tokens, at most %d are allowed", len(set.list), maxTokens)
	}
	return set, nil
}

// role returns the level of a request's token: Public without one.
func (t *tokenSet) role(h http.Header) (Access, error) {
	sent := h.Get("Authorization")
	if sent == "" {
		return Public, nil
	}
	scheme, token, _ := strings.Cut(sent, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fsm.Errorf(fsm.Unauthorized, "", "", "the Authorization header is not a bearer token")
	}
	hash := sha256.Sum256([]byte(strings.TrimSpace(token)))
	found := Access("")
	for i := range t.list { // all of them, so that the time says nothing
		if subtle.ConstantTimeCompare(hash[:], t.list[i].hash[:]) == 1 {
			found = t.list[i].role
		}
	}
	if found == "" {
		return "", fsm.Errorf(fsm.Unauthorized, "", "", "the token is not known to this node")
	}
	return found, nil
}

// admit decides whether a request may use a route, and as what.
func (s *Server) admit(h http.Header, need Access) (Access, error) {
	set := s.tokens.Load()
	if set == nil {
		return Admin, nil
	}
	have, err := set.role(h)
	if err != nil && need != Public {
		return "", err
	}
	switch {
	case have.allows(need) || need == Public:
		return have, nil
	case have == Public:
		return "", fsm.Errorf(fsm.Unauthorized, "", "", "this needs a token of role %s", need)
	}
	return "", fsm.Errorf(fsm.Forbidden, "", "", "this needs role %s, the token has role %s", need, have).
		WithHint("use a token of role %s", need)
}
