// Package cli is Paceline's command line: noun-verb commands for every resource
// of the API. It talks to a cluster through package client and through
// nothing else. The commands that run a node (agent, dev, demo, …) are added to
// the root by cmd/paceline.
//
// Exit codes are part of the interface, see [ExitOK] and the ones after it.
//
// See DESIGN.md beside this file.
package cli
