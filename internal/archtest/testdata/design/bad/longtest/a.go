// Package longtest is.
package longtest
