package session

// MaxID is the longest id of a session.
const MaxID = 256

// ValidID reports whether a text may be the id of a session that a client
// names in a cookie: 1 to [MaxID] letters, digits and -._~.
func ValidID(id string) bool {
	if id == "" || len(id) > MaxID {
		return false
	}
	for _, c := range []byte(id) {
		letter := 'a' <= c|0x20 && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' && c != '~' {
			return false
		}
	}
	return true
}
