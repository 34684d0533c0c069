package http1

import (
	"encoding/binary"
	"math/bits"
)

// Classes of bytes.
const (
	classToken  = 1 << iota // RFC 9110 §5.6.2
	classMethod             // a token without lower-case letters
	classTarget             // visible ASCII but the sign of a fragment
	classHost               // a name or an IPv4 address
	classHex
	classCookie // RFC 6265 §4.1.1, cookie-octet
	classText   // what a value may have: tab, space, visible, obs-text
)

// classes and lower are tables that nobody changes.
var (
	classes = makeClasses()
	lower   = makeLower()
)

func makeClasses() (t [256]uint8) {
	for i := range t {
		c := byte(i)
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		digit := '0' <= c && c <= '9'
		visible := 0x21 <= c && c <= 0x7e
		if letter || digit || within("!#$%&'*+-.^_`|~", c) {
			t[i] |= classToken
			if c < 'a' || 'z' < c {
				t[i] |= classMethod
			}
		}
		if visible && c != '#' {
			t[i] |= classTarget
		}
		if letter || digit || within("-._", c) {
			t[i] |= classHost
		}
		if digit || 'a' <= c|0x20 && c|0x20 <= 'f' {
			t[i] |= classHex
		}
		if visible && !within("\",;\\", c) {
			t[i] |= classCookie
		}
		if c == '\t' || c == ' ' || visible || c >= 0x80 {
			t[i] |= classText
		}
	}
	return t
}

func makeLower() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}

func within(set string, c byte) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

// all reports whether each byte is of a class.
func all(b []byte, class uint8) bool {
	for _, c := range b {
		if classes[c]&class == 0 {
			return false
		}
	}
	return true
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// control finds the first control character from i on, or the end. Eight bytes
// are looked at in one go; the lowest bit that such a test sets is exact.
func control(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		del := w ^ 0x7f*ones
		if m := ((w-0x20*ones)&^w | (del-ones)&^del) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == 0x7f {
			return i
		}
	}
	return i
}

// targetEnd finds the first byte from i on that no target has, or the end.
func targetEnd(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		del, hash := w^0x7f*ones, w^'#'*ones
		if m := ((w-0x21*ones)&^w | w | (del-ones)&^del | (hash-ones)&^hash) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
	}
	for i < len(b) && classes[b[i]]&classTarget != 0 {
		i++
	}
	return i
}

// is compares a token with a name in lower case. Among tokens only a letter and
// its capital agree but for this bit.
func is(token []byte, name string) bool {
	if len(token) != len(name) {
		return false
	}
	for i := range token {
		if token[i]|0x20 != name[i] {
			return false
		}
	}
	return true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
