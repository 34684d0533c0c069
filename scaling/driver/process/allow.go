package process

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
)

// allowList decides what may be executed on this node.
//
// A command is compared as it is written and as it is after every symbolic
// link has been followed; both must be allowed. Otherwise a link in an allowed
// directory could point at a shell, or a name of a multi-call binary that is
// allowed under one name could be used under another.
type allowList []string

// resolve returns the file to execute for a command.
func (a allowList) resolve(command string) (string, error) {
	if !filepath.IsAbs(command) || filepath.Clean(command) != command {
		return "", notAllowed(command).WithHint("name it by its absolute path, without . or ..")
	}
	file, err := filepath.EvalSymlinks(command)
	if err != nil {
		if a.names(command) {
			return "", unusable(command, err)
		}
		return "", notAllowed(command)
	}
	if !a.permits(command, file) {
		return "", notAllowed(command)
	}
	return file, executable(command, file)
}

// permits reports whether an entry holds for the command and for the file that
// it leads to.
func (a allowList) permits(command, file string) bool {
	for _, entry := range a {
		real, err := filepath.EvalSymlinks(entry)
		if err != nil || !filepath.IsAbs(entry) {
			continue
		}
		if strings.HasSuffix(entry, "/") {
			if within(command, filepath.Clean(entry)) && within(file, real) {
				return true
			}
			continue
		}
		sameName := filepath.Base(command) == filepath.Base(entry) || command == real
		if file == real && sameName {
			return true
		}
	}
	return false
}

// names reports whether the command as written is on the list, whether or not
// it exists. What is not on the list is not looked at any further, so that
// nobody can find out which files a machine has.
func (a allowList) names(command string) bool {
	for _, entry := range a {
		if entry == command || strings.HasSuffix(entry, "/") && within(command, filepath.Clean(entry)) {
			return true
		}
	}
	return false
}

// within reports whether a clean path lies below a clean directory.
func within(path, dir string) bool {
	if dir == "/" {
		return true
	}
	return strings.HasPrefix(path, dir+"/")
}

// executable refuses what can not be executed.
func executable(command, file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return unusable(command, err)
	case !info.Mode().IsRegular():
		return fsm.Errorf(fsm.Invalid, "command", command, "is not a regular file")
	case info.Mode().Perm()&0o111 == 0:
		return fsm.Errorf(fsm.Invalid, "command", command, "is not executable").
			WithHint("chmod +x %s on this node", command)
	}
	return nil
}

func notAllowed(command string) *fsm.Error {
	return fsm.Errorf(fsm.Forbidden, "command", command, "is not on this node's list of allowed executables").
		WithHint("add it to the allow-list in the configuration of the node, and restart the node")
}

func unusable(command string, err error) *fsm.Error {
	if errors.Is(err, fs.ErrNotExist) {
		return fsm.Errorf(fsm.NotFound, "command", command, "does not exist on this node").
			WithHint("install it on every node that may run the group")
	}
	return fsm.Errorf(fsm.Invalid, "command", command, "can not be used: %v", err)
}
