//go:build race

package vsrsim

const raceEnabled = true
