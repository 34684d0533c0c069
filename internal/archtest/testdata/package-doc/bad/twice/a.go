// Package twice says so here.
package twice
