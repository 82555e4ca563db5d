package kv

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"
)

// Limits of the machine. They take part in what commands answer, so they are
// constants: every replica must have the same.
const (
	// MaxKeyBytes bounds a key.
	MaxKeyBytes = 4 << 10
	// MaxValueBytes bounds a value, so that an item fits an answer of 1 MiB.
	MaxValueBytes = 1<<20 - 8<<10
	// MaxTTL bounds a time to live.
	MaxTTL = 100 * 365 * 24 * time.Hour
	// MaxTxnParts bounds the guards, and each list of operations, of a
	// transaction.
	MaxTxnParts = 1024
	// MaxListItems bounds the items of one list answer.
	MaxListItems = 10000
	// DefaultListItems is what a list with limit 0 gets.
	DefaultListItems = 1000

	// answerBytesMax bounds an answer, so that it fits the default limit on
	// results and query answers.
	answerBytesMax = 1<<20 - 64
	// sweepMax bounds how many expired items one command or tick removes, so
	// that a million that expire together stall nothing.
	sweepMax = 1024
)

// ErrInvalid is wrapped by the error for bytes or text that are not a command,
// query or answer of this package. Whatever they were part of did not happen.
var ErrInvalid = errors.New("kv: invalid")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// CheckKey says what is wrong with a key; nil when nothing is. The machine
// answers a command whose key does not pass with an application error.
func CheckKey(key string) error {
	if why := keyFault([]byte(key)); why != "" {
		return invalid("%s", why)
	}
	return nil
}

// keyFault is "" for a good key.
func keyFault(key []byte) string {
	if len(key) == 0 {
		return "the key is empty"
	}
	return prefixFault(key)
}

// prefixFault is keyFault for what need not be a whole key.
func prefixFault(key []byte) string {
	if len(key) > MaxKeyBytes {
		return fmt.Sprintf("the key has %d bytes, more than %d", len(key), MaxKeyBytes)
	}
	if at := bytes.IndexByte(key, 0); at >= 0 {
		return fmt.Sprintf("the key holds a NUL at byte %d", at)
	}
	return ""
}

// shown quotes a key for an error text, shortened when it is long.
func shown(key []byte) string {
	const most = 64
	if len(key) > most {
		return strconv.Quote(string(key[:most])) + "…"
	}
	return strconv.Quote(string(key))
}

// expiry is when something written now with ttl expires; 0 for never. A time
// that comes to 0 by chance (clocks before 1970) is taken as 1.
func expiry(now, ttl int64) int64 {
	if ttl == 0 {
		return 0
	}
	if now > math.MaxInt64-ttl {
		return math.MaxInt64
	}
	if now+ttl == 0 {
		return 1
	}
	return now + ttl
}
