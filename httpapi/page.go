package httpapi

import (
	"encoding/base64"
	"iter"
	"net/http"

	"github.com/pacelinehq/paceline/client"
)

// page is which part of a listing is wanted. Rows come in the order of their
// keys, ascending or descending; the cursor is the key of the last row seen.
type page struct {
	limit int
	after string
}

// page reads limit and cursor.
func (c *call) page() (page, error) {
	p := page{limit: c.number("limit", DefaultPage)}
	if p.limit < 1 || p.limit > MaxPage {
		return p, invalidField("query", "", "limit", "must be between 1 and 1000")
	}
	if cursor := c.query.Get("cursor"); cursor != "" {
		key, err := base64.RawURLEncoding.DecodeString(cursor)
		if err != nil || len(key) < 2 || key[0] != cursorVersion {
			return p, invalidField("query", "", "cursor", "is not one that this API gave")
		}
		p.after = string(key[1:])
	}
	return p, nil
}

// cursorVersion tells apart the formats that cursors may have over time.
const cursorVersion = '1'

func cursorOf(key string) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{cursorVersion}, key...))
}

// from is the first key that may be on the page, for tables that can be
// entered anywhere.
func (p page) from() string {
	if p.after == "" {
		return ""
	}
	return p.after + "\x00"
}

// list answers with a page of rows that keep passes. The rows come from seq in
// the order that the cursor follows; skip says that a key was on an earlier
// page.
func list[T any](c *call, p page, seq iter.Seq2[string, *T], skip func(key string) bool, keep func(*T) bool) error {
	out := client.List[*T]{Items: make([]*T, 0, min(p.limit, DefaultPage))}
	last := ""
	for key, row := range seq {
		if skip != nil && p.after != "" && skip(key) {
			continue
		}
		if keep != nil && !keep(row) {
			continue
		}
		if len(out.Items) == p.limit {
			out.Next = cursorOf(last)
			break
		}
		out.Items = append(out.Items, row)
		last = key
	}
	return c.json(http.StatusOK, out)
}
