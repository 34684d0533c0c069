package httpapi

import (
	"reflect"
	"strings"

	"encoding/json"
)

// tryDecode decodes raw as the shape's Go type and throws the value away.
func tryDecode(s *shape, raw []byte) error {
	return json.Unmarshal(raw, reflect.New(s.typ).Interface())
}

// maxSuggest bounds the names that are compared, and their length.
const maxSuggest = 64

// didYouMean suggests the known name that is nearest to a misspelt one.
func didYouMean(name string, known []string) string {
	if len(name) > maxSuggest {
		return ""
	}
	best, least := "", 3
	for _, k := range known[:min(len(known), maxSuggest)] {
		if strings.EqualFold(k, name) {
			return "; did you mean " + k + "?"
		}
		if d := distance(name, k); d < least && d < len(k) {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is the number of edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
