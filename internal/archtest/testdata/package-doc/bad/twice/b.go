// Package twice says so there.
package twice
