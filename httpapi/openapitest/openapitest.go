// Package openapitest holds tests to the OpenAPI document of package httpapi.
package openapitest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"

	"github.com/oversync/oversync/httpapi"
)

// Wrap returns a transport that sends requests through next and fails the test
// when an answer is not what the OpenAPI document says, or when the server
// accepted a request that the document refuses. A nil next is
// http.DefaultTransport.
//
// Answers are read whole before they are passed on, except event streams, of
// which only status and headers are checked. An answer that breaks off is passed
// on as it came. The transport is safe for concurrent use.
func Wrap(t testing.TB, next http.RoundTripper) http.RoundTripper {
	t.Helper()
	doc, err := load()
	if err != nil {
		t.Fatalf("the OpenAPI document cannot be used: %v", err)
	}
	if next == nil {
		next = http.DefaultTransport
	}
	return &transport{t: t, next: next, doc: doc}
}

// document is the OpenAPI document, ready to judge by.
type document struct {
	spec   *openapi3.T
	router routers.Router
}

// load reads the document once for all tests of a process.
var load = sync.OnceValues(func() (*document, error) {
	spec, err := openapi3.NewLoader().LoadFromData(httpapi.OpenAPI)
	if err != nil {
		return nil, err
	}
	if err := spec.Validate(context.Background()); err != nil {
		return nil, err
	}
	router, err := gorillamux.NewRouter(spec)
	if err != nil {
		return nil, err
	}
	return &document{spec, router}, nil
})

type transport struct {
	t    testing.TB
	next http.RoundTripper
	doc  *document
}

func (tr *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		sent, err = io.ReadAll(req.Body)
		if closeErr := req.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return nil, fmt.Errorf("read the request's body: %w", err)
		}
		forward := req.Clone(req.Context())
		forward.Body = io.NopCloser(bytes.NewReader(sent))
		req = forward
	}
	resp, err := tr.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	var received []byte
	if !isStream(resp.Header) {
		received, err = io.ReadAll(resp.Body)
		if closeErr := resp.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			// What breaks off cannot be judged, and the caller has to cope with it.
			resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(received), failingReader{err}))
			return resp, nil
		}
		resp.Body = io.NopCloser(bytes.NewReader(received))
	}
	if err := tr.doc.check(req, sent, resp, received); err != nil {
		tr.t.Errorf("%s %s answered %d against the OpenAPI document: %v\nrequest: %.2000s\nanswer: %.2000s",
			req.Method, req.URL.RequestURI(), resp.StatusCode, err, sent, received)
	}
	return resp, nil
}

func isStream(header http.Header) bool {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return mediaType == "text/event-stream"
}

type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// check judges one exchange. A refused request need not fit the document, since
// that may be why it was refused.
func (d *document) check(req *http.Request, sent []byte, resp *http.Response, received []byte) error {
	asked := req.Clone(req.Context())
	asked.Body = io.NopCloser(bytes.NewReader(sent))
	asked.ContentLength = int64(len(sent))
	// The server takes every body for JSON, whatever it is called.
	asked.Header.Set("Content-Type", "application/json")
	route, params, err := d.router.FindRoute(asked)
	switch {
	case errors.Is(err, routers.ErrMethodNotAllowed):
		return d.checkOffRoute("MethodNotAllowed", http.StatusMethodNotAllowed, resp, received)
	case errors.Is(err, routers.ErrPathNotFound):
		return d.checkOffRoute("NotFound", http.StatusNotFound, resp, received)
	case err != nil:
		return err
	}
	input := &openapi3filter.RequestValidationInput{
		Request: asked, PathParams: params, Route: route,
		Options: &openapi3filter.Options{
			AuthenticationFunc:    openapi3filter.NoopAuthenticationFunc,
			IncludeResponseStatus: true,
			SkipSettingDefaults:   true,
			ExcludeResponseBody:   isStream(resp.Header),
		},
	}
	if resp.StatusCode < http.StatusBadRequest {
		if err := openapi3filter.ValidateRequest(req.Context(), input); err != nil {
			return fmt.Errorf("the request was accepted: %w", err)
		}
	}
	return openapi3filter.ValidateResponse(req.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input,
		Status:                 resp.StatusCode,
		Header:                 resp.Header,
		Body:                   io.NopCloser(bytes.NewReader(received)),
		Options:                input.Options,
	})
}

// checkOffRoute judges an answer that belongs to no operation, by a named
// response of the document.
func (d *document) checkOffRoute(name string, status int, resp *http.Response, received []byte) error {
	if resp.StatusCode != status {
		return fmt.Errorf("expected status %d", status)
	}
	responses := openapi3.NewResponses(openapi3.WithStatus(status, d.spec.Components.Responses[name]))
	return openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: resp.Request,
			Route:   &routers.Route{Spec: d.spec, Operation: &openapi3.Operation{Responses: responses}},
		},
		Status: resp.StatusCode, Header: resp.Header, Body: io.NopCloser(bytes.NewReader(received)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
}
