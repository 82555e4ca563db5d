package discovery

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
)

// Keygen returns a new gossip key, 32 random bytes in base64.
func Keygen() string {
	var k [32]byte
	_, _ = rand.Read(k[:]) // never fails: crypto/rand ends the program instead
	return base64.StdEncoding.EncodeToString(k[:])
}

// ParseKey reads a gossip key in base64. Its errors never show the key.
func ParseKey(s string) ([]byte, error) {
	k, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		return nil, invalid("not base64: expected a gossip key as 'diarchy keygen' prints it")
	}
	if err := checkKey(k); err != nil {
		return nil, invalid("%v", err)
	}
	return k, nil
}

func checkKey(k []byte) error {
	if n := len(k); n != 16 && n != 24 && n != 32 {
		return fmt.Errorf("%d bytes: a gossip key has 16, 24 or 32 ('diarchy keygen' makes one)", n)
	}
	return nil
}

// keyFileBytesMax is far above any honest key file.
const keyFileBytesMax = 64 << 10

// LoadKeys reads the gossip keys from the settings encrypt (one key) or
// encrypt_file (one key a line, '#' starts a comment; the first encrypts, all
// decrypt, so keys can be changed by one restart after the other). Neither
// set: no keys.
func LoadKeys(encrypt, encryptFile string) ([][]byte, error) {
	switch {
	case encrypt != "" && encryptFile != "":
		return nil, invalid("encrypt and encrypt_file are both set: keep one of them")
	case encrypt != "":
		k, err := ParseKey(encrypt)
		if err != nil {
			return nil, fmt.Errorf("encrypt: %w", err)
		}
		return [][]byte{k}, nil
	case encryptFile == "":
		return nil, nil
	}
	text, err := readSmallFile(encryptFile, keyFileBytesMax)
	if err != nil {
		return nil, fmt.Errorf("encrypt_file: %w", err)
	}
	var keys [][]byte
	for i, line := range strings.Split(text, "\n") {
		if line, _, _ = strings.Cut(line, "#"); strings.TrimSpace(line) == "" {
			continue
		}
		k, err := ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("encrypt_file %s, line %d: %w", encryptFile, i+1, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, invalid("encrypt_file %s holds no key: 'diarchy keygen > FILE' makes one", encryptFile)
	}
	return keys, nil
}

// readSmallFile reads a file that is refused when it is longer than max.
func readSmallFile(path string, max int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, over, err := readBounded(f, max)
	if err != nil {
		return "", err
	}
	if over {
		return "", errors.New(path + " is far too long for what it should hold")
	}
	return text, nil
}
