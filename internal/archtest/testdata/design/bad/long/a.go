// Package long is.
package long
