package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"
)

// document is a resource being put together from a file and flags. It is sent
// as it is: the server knows every rule, and reports all mistakes at once.
type document map[string]any

// readDocument reads the file given with -f: YAML or JSON, - for standard input.
func (a *app) readDocument(path string) (document, error) {
	if path == "" {
		return document{}, nil
	}
	raw, err := a.readFile(path)
	if err != nil {
		return nil, err
	}
	// A named type would also become that of the maps within, which set does
	// not know then.
	doc := map[string]any{}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, usagef("%s can not be read: %v", path, err)
	}
	if doc == nil { // the file says "null"
		doc = map[string]any{}
	}
	return doc, nil
}

func (a *app) readFile(path string) ([]byte, error) {
	in := a.In
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			var p *os.PathError
			if errors.As(err, &p) {
				return nil, usagef("%s: %v", path, p.Err)
			}
			return nil, usagef("%v", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, usagef("%s can not be read: %v", path, err)
	}
	if len(raw) > maxInput {
		return nil, usagef("%s has more than %d bytes", path, maxInput)
	}
	return raw, nil
}

// set puts a value at a dotted path.
func (d document) set(path string, v any) {
	at := map[string]any(d)
	parts := strings.Split(path, ".")
	for _, p := range parts[:len(parts)-1] {
		inner, ok := at[p].(map[string]any)
		if !ok {
			inner = map[string]any{}
			at[p] = inner
		}
		at = inner
	}
	at[parts[len(parts)-1]] = v
}

// json renders the document.
func (d document) json() ([]byte, error) {
	raw, err := json.Marshal(map[string]any(d))
	if err != nil {
		return nil, usagef("the input can not be sent as JSON: %v", err)
	}
	return raw, nil
}

// named takes the resource's name from the arguments or else from the file.
func (d document) named(args []string, at int, field string) (string, error) {
	if len(args) > at {
		return args[at], nil
	}
	if name, ok := d[field].(string); ok && name != "" {
		return name, nil
	}
	return "", usagef("the %s is missing: give it as an argument, or in the file", field)
}

// field ties a flag to a place in the document.
type field struct {
	flag, path string
	read       func(*cobra.Command) (any, error)
}

// fields are the flags of a command that fill a document.
type fields []field

func (f *fields) text(c *cobra.Command, flag, path, help string) {
	c.Flags().String(flag, "", help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) { return c.Flags().GetString(flag) }})
}

func (f *fields) integer(c *cobra.Command, flag, path, help string) {
	c.Flags().Int(flag, 0, help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) { return c.Flags().GetInt(flag) }})
}

func (f *fields) number(c *cobra.Command, flag, path, help string) {
	c.Flags().Float64(flag, 0, help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) { return c.Flags().GetFloat64(flag) }})
}

func (f *fields) span(c *cobra.Command, flag, path, help string) {
	c.Flags().Duration(flag, 0, help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) {
		d, err := c.Flags().GetDuration(flag)
		return d.String(), err
	}})
}

func (f *fields) boolean(c *cobra.Command, flag, path, help string) {
	c.Flags().Bool(flag, false, help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) { return c.Flags().GetBool(flag) }})
}

func (f *fields) list(c *cobra.Command, flag, path, help string) {
	c.Flags().StringArray(flag, nil, help)
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) { return c.Flags().GetStringArray(flag) }})
}

func (f *fields) pairs(c *cobra.Command, flag, path, help string) {
	c.Flags().StringArray(flag, nil, help+" (key=value, may be repeated)")
	*f = append(*f, field{flag, path, func(c *cobra.Command) (any, error) {
		list, err := c.Flags().GetStringArray(flag)
		if err != nil {
			return nil, err
		}
		out := map[string]any{}
		for _, kv := range list {
			k, v, ok := strings.Cut(kv, "=")
			if !ok {
				return nil, fmt.Errorf("--%s %q is not key=value", flag, kv)
			}
			out[k] = v
		}
		return out, nil
	}})
}

// fill sets what the user gave as flags.
func (f fields) fill(c *cobra.Command, d document) error {
	for _, x := range f {
		if !c.Flags().Changed(x.flag) {
			continue
		}
		v, err := x.read(c)
		if err != nil {
			return usage(c, err)
		}
		d.set(x.path, v)
	}
	return nil
}

// given reports whether any of the flags was used.
func (f fields) given(c *cobra.Command) bool {
	for _, x := range f {
		if c.Flags().Changed(x.flag) {
			return true
		}
	}
	return false
}
