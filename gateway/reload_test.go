package gateway

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestEachKeyIsReloadedOrNamed changes each field of the configuration, those of a later day too: either Reload puts it
// in force, or it says that it doesn't.
func TestEachKeyIsReloadedOrNamed(t *testing.T) {
	inForce := []string{"Server.CORSOrigins", "Upstream.MaxConcurrent", "Plans", "Auth."} // what apply passes on
	d := newDecoder("", nil, nil)
	for _, field := range leaves(reflect.TypeFor[Config](), nil) {
		name := field.path
		changed := Defaults()
		if v := reflect.ValueOf(&changed).Elem().FieldByIndex(field.index); v.IsZero() {
			fill(t, name, v)
		} else {
			v.SetZero()
		}
		named := needRestart(Defaults(), changed)
		if slices.ContainsFunc(inForce, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			if len(named) != 0 {
				t.Errorf("%s is put in force, and %q are named", name, named)
			}
			continue
		}
		if len(named) != 1 {
			t.Errorf("%s is neither put in force nor named: %q", name, named)
			continue
		}
		section, leaf, _ := strings.Cut(named[0], ".")
		if _, ok := d.rules[section]; !ok || leaf != "" && d.rules[section].keys[leaf].set == nil {
			t.Errorf("%s is named %q, which is no key", name, named[0])
		}
		if plain := strings.NewReplacer("_", "", ".", ""); !strings.HasPrefix(strings.ToLower(plain.Replace(name)), plain.Replace(named[0])) {
			t.Errorf("%s is named %q", name, named[0])
		}
	}
	both := Defaults()
	both.Server.TLS = TLS{"a", "b"}
	other := both
	other.Server.TLS = TLS{"c", "d"}
	if named := needRestart(both, other); len(named) != 0 {
		t.Errorf("other certificate files: %q", named)
	}
}

// leaf is a field that is no section.
type leaf struct {
	path  string
	index []int
}

func leaves(section reflect.Type, index []int) (all []leaf) {
	for i := range section.NumField() {
		f := section.Field(i)
		at := append(slices.Clone(index), i)
		if f.Type.Kind() != reflect.Struct {
			all = append(all, leaf{f.Name, at})
			continue
		}
		for _, below := range leaves(f.Type, at) {
			all = append(all, leaf{f.Name + "." + below.path, below.index})
		}
	}
	return all
}

// fill gives a field a value.
func fill(t *testing.T, name string, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(time.Second))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	default:
		t.Fatalf("%s is a %s, which this test can't change", name, v.Kind())
	}
}
