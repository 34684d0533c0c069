package fsm

import (
	"encoding/json"
	"fmt"
	"reflect"

	jsonv2 "github.com/go-json-experiment/json"
)

// Command is one change of the state. Apply must be a pure function of the
// transaction: no clock, no random numbers, no I/O. A command that returns an
// error leaves no trace.
type Command interface {
	// Name is the command's name in the log; it never changes.
	Name() string
	// Apply changes tx and returns the command's value.
	Apply(tx *Tx) (any, error)
}

// Result is what a command that was applied gives to its proposer.
type Result struct {
	// Index is the log index that the command was applied at: a reader whose
	// state has this index sees the command's effects.
	Index uint64
	// Value is what the command's Apply returned. It is nil for a command
	// that was answered from the remembered requests.
	Value any
	// Replayed says that the RequestID had been answered before.
	Replayed bool
}

// decoder makes a command from its body.
type decoder func(body []byte) (Command, error)

// decodeJSON reads what json.Marshal of this package wrote. It is the decoder
// that the standard library has from Go 1.27 on, which takes half the time of
// the older one; every replica decodes every command and many rows.
func decodeJSON(raw []byte, v any) error { return jsonv2.Unmarshal(raw, v) }

// as is the decoder of one command type.
func as[C Command](body []byte) (Command, error) {
	var c C
	if err := decodeJSON(body, &c); err != nil {
		return nil, err
	}
	return c, nil
}

// CommandNames lists every command, in the order of the table.
func CommandNames() []string {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.name
	}
	return names
}

// Envelope is one command on its way into the log, encoded.
type Envelope struct {
	// Name and Body are the command; Body is JSON.
	Name string
	Body []byte
	// Actor and RequestID become the command's [Meta].
	Actor     string
	RequestID string
	// Ignorable lets a reader that does not know the command skip it.
	Ignorable bool
}

// Seal encodes a command for the log.
func Seal(c Command, actor, requestID string) (Envelope, error) {
	if len(requestID) > maxRequestID {
		return Envelope{}, Errorf(Invalid, "request", "", "has an id of %d bytes, at most %d are allowed", len(requestID), maxRequestID)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return Envelope{}, Errorf(Invalid, "command", c.Name(), "can not be encoded: %v", err)
	}
	if len(body) > MaxCommandBytes {
		return Envelope{}, Errorf(TooLarge, "command", c.Name(), "has %d bytes, at most %d are allowed", len(body), MaxCommandBytes)
	}
	return Envelope{Name: c.Name(), Body: body, Actor: actor, RequestID: requestID}, nil
}

// Open decodes the command of an envelope.
func (e Envelope) Open() (Command, error) {
	decode, ok := decoders[e.Name]
	if !ok {
		return nil, &UnknownCommandError{Name: e.Name}
	}
	c, err := decode(e.Body)
	if err != nil {
		// Not the decoder's own words: the answer may become a row, and those
		// differ between its versions.
		return nil, Errorf(Invalid, "command", e.Name, "does not decode").
			WithHint("its proposer may run another version")
	}
	return c, nil
}

// UnknownCommandError is a command that this binary does not know: the log was
// written by a newer version.
type UnknownCommandError struct{ Name string }

// Error names the command and what to do.
func (e *UnknownCommandError) Error() string {
	return fmt.Sprintf("the log holds the command %q, which this version does not know; start a newer paceline on this node", e.Name)
}

// decoders indexes the table by name.
var decoders = indexCommands()

func indexCommands() map[string]decoder {
	m := make(map[string]decoder, len(commands))
	for _, c := range commands {
		if _, twice := m[c.name]; twice {
			panic("fsm: command " + c.name + " stands in the table twice")
		}
		m[c.name] = c.decode
	}
	return m
}

// entry makes a row of the command table.
func entry[C Command]() commandEntry {
	var c C
	return commandEntry{name: c.Name(), decode: as[C], typ: reflect.TypeFor[C]()}
}

type commandEntry struct {
	name   string
	decode decoder
	typ    reflect.Type
}
