// Package small is.
package small
