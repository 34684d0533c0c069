package node

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v4"

	"github.com/pacelinehq/paceline/fsm"
)

// envPrefix begins the environment variables of the flags: PACELINE_DATA_DIR
// is --data-dir.
const envPrefix = "PACELINE_"

// Resolve sets the flags that the command line left alone: first from the
// environment, then from a YAML file whose keys are the flags' names. It
// returns where each value came from. Unknown keys of the file are refused.
func Resolve(f *pflag.FlagSet, lookupEnv func(string) (string, bool), file string) (origin map[string]string, err error) {
	origin = map[string]string{}
	f.VisitAll(func(flag *pflag.Flag) {
		origin[flag.Name] = "default"
		if flag.Changed {
			origin[flag.Name] = "flag"
		}
	})
	var problems []error
	set := func(flag *pflag.Flag, value, from string) {
		if origin[flag.Name] != "default" {
			return
		}
		if err := f.Set(flag.Name, value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", from, err))
			return
		}
		origin[flag.Name] = from
	}
	f.VisitAll(func(flag *pflag.Flag) {
		key := EnvName(flag.Name)
		if v, ok := lookupEnv(key); ok {
			set(flag, v, key)
		}
	})
	if file != "" {
		if err := fromFile(f, file, set); err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fsm.Errorf(fsm.Invalid, "configuration", "", "%v", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return origin, nil
}

// EnvName is the environment variable of a flag.
func EnvName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func fromFile(f *pflag.FlagSet, file string, set func(*pflag.Flag, string, string)) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var keys map[string]any
	if err := yaml.Unmarshal(raw, &keys); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var problems []error
	for _, key := range sortedKeys(keys) {
		flag := f.Lookup(key)
		if flag == nil {
			problems = append(problems, fmt.Errorf("%s: unknown key %q%s", file, key, suggest(f, key)))
			continue
		}
		text, err := flagText(keys[key])
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %s: %w", file, key, err))
			continue
		}
		set(flag, text, file+": "+key)
	}
	return errors.Join(problems...)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// flagText writes a YAML value as a flag takes it: lists with commas, maps as
// key=value.
func flagText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", errors.New("has no value")
	case []any:
		parts := make([]string, len(v))
		for i, e := range v {
			parts[i] = fmt.Sprint(e)
		}
		return strings.Join(parts, ","), nil
	case map[string]any:
		var parts []string
		for _, k := range sortedKeys(v) {
			parts = append(parts, fmt.Sprintf("%s=%v", k, v[k]))
		}
		return strings.Join(parts, ","), nil
	}
	return fmt.Sprint(v), nil
}

// suggest names the flag that a key was probably meant to be.
func suggest(f *pflag.FlagSet, key string) string {
	best := ""
	squash := strings.NewReplacer("-", "", "_", "", ".", "")
	f.VisitAll(func(flag *pflag.Flag) {
		a, b := squash.Replace(strings.ToLower(key)), squash.Replace(flag.Name)
		if a == b || (len(a) > 3 && (strings.HasPrefix(b, a) || strings.HasPrefix(a, b))) {
			best = flag.Name
		}
	})
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
