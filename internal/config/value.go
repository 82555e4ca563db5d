package config

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"
)

// setValue puts an evaluated HCL or JSON value where a setting points. The
// error says what was expected.
func setValue(into any, v cty.Value) error {
	if v.IsNull() {
		return fmt.Errorf("is null: expected %s; leave the key out for the default", expects(into))
	}
	if !v.IsWhollyKnown() {
		return fmt.Errorf("expected %s", expects(into))
	}
	switch to := into.(type) {
	case *[]string:
		list, err := stringList(v)
		if err != nil {
			return err
		}
		*to = list
		return nil
	case *map[string]string:
		m, err := stringMap(v)
		if err != nil {
			return err
		}
		*to = m
		return nil
	case *bool:
		if v.Type() != cty.Bool {
			return wrongType(into, v)
		}
		*to = v.True()
		return nil
	case *int, *int64:
		if v.Type() != cty.Number {
			return wrongType(into, v)
		}
		return setText(into, number(v))
	case size, sizeInt:
		switch v.Type() {
		case cty.Number:
			return setText(into, number(v))
		case cty.String:
			return setText(into, v.AsString())
		}
		return wrongType(into, v)
	}
	if v.Type() != cty.String {
		return wrongType(into, v)
	}
	return setText(into, v.AsString())
}

// setText puts the text of a variable or flag where a setting points.
func setText(into any, s string) error {
	switch to := into.(type) {
	case *string:
		*to = s
	case *bool:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return fmt.Errorf("%q: expected %s", s, expects(into))
		}
		*to = b
	case *int:
		n, err := wholeNumber(into, s)
		*to = int(n)
		return err
	case *int64:
		n, err := wholeNumber(into, s)
		*to = n
		return err
	case size:
		n, err := parseSize(s)
		*to.to = n
		return err
	case sizeInt:
		n, err := parseSize(s)
		*to.to = int(n)
		return err
	case *time.Duration:
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return fmt.Errorf("%q: expected %s", s, expects(into))
		}
		*to = d
	case *[]string:
		*to = strings.FieldsFunc(s, func(r rune) bool { return r == ',' })
	default:
		return fmt.Errorf("cannot be set from text")
	}
	return nil
}

func expects(into any) string {
	switch into.(type) {
	case *string:
		return "text in quotes"
	case *bool:
		return "true or false"
	case *int, *int64:
		return "a whole number, 0 or more"
	case size, sizeInt:
		return `a number of bytes, or text such as "64MiB"`
	case *time.Duration:
		return `a duration such as "500ms" or "2s"`
	case *[]string:
		return `a list of texts, such as ["a", "b"]`
	}
	return `a map of texts, such as { KEY = "value" }`
}

func wrongType(into any, v cty.Value) error {
	return fmt.Errorf("is %s: expected %s", v.Type().FriendlyName(), expects(into))
}

// number writes a number that is not an int64 as a float64: it is refused all
// the same, and writing out 1e99999999 exactly would take minutes.
func number(v cty.Value) string {
	f := v.AsBigFloat()
	if n, acc := f.Int64(); acc == big.Exact {
		return strconv.FormatInt(n, 10)
	}
	short, _ := f.Float64()
	return strconv.FormatFloat(short, 'g', -1, 64)
}

// wholeNumberMax keeps every count within an int of 32 bits, so that sums and
// products of two cannot overflow.
const wholeNumberMax = 1<<31 - 1

func wholeNumber(into any, s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > wholeNumberMax {
		return 0, fmt.Errorf("%s: expected %s and at most %d", s, expects(into), wholeNumberMax)
	}
	return n, nil
}

var sizeUnits = []struct {
	suffix string
	factor int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1},
}

const sizeMax = 1 << 40

func parseSize(s string) (int64, error) {
	text, factor := strings.TrimSpace(s), int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(text, u.suffix); ok {
			text, factor = strings.TrimSpace(rest), u.factor
			break
		}
	}
	f, ok := new(big.Int).SetString(text, 10)
	if !ok || f.Sign() < 0 || !f.IsInt64() || f.Int64() > sizeMax/factor {
		return 0, fmt.Errorf("%s: expected %s, at most 1 TiB", s, expects(size{}))
	}
	return f.Int64() * factor, nil
}

func stringList(v cty.Value) ([]string, error) {
	var into *[]string
	t := v.Type()
	if !t.IsTupleType() && !t.IsListType() {
		return nil, wrongType(into, v)
	}
	out := []string{}
	for i, e := range v.AsValueSlice() {
		if e.IsNull() || e.Type() != cty.String {
			return nil, fmt.Errorf("element %d is %s: expected %s", i+1, e.Type().FriendlyName(), expects(into))
		}
		out = append(out, e.AsString())
	}
	return out, nil
}

func stringMap(v cty.Value) (map[string]string, error) {
	var into *map[string]string
	t := v.Type()
	if !t.IsObjectType() && !t.IsMapType() {
		return nil, wrongType(into, v)
	}
	out := map[string]string{}
	for k, e := range v.AsValueMap() {
		if e.IsNull() || e.Type() != cty.String {
			return nil, fmt.Errorf("%q is %s: expected %s", k, e.Type().FriendlyName(), expects(into))
		}
		out[k] = e.AsString()
	}
	return out, nil
}
